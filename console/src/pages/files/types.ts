/** Records of the files' routes, as `/openapi.json` has them. */

export interface Entry {
  path: string;
  name: string;
  /** `file`, `directory`, `symlink`, `fifo`, `socket`, `character-device`, `block-device`. */
  type: string;
  size: number;
  permissions: string;
  owner: string;
  group: string;
  lastModified: string;
  target?: string;
  targetType?: string;
  /** What a link says itself. */
  link?: string;
  /** Where the name is not UTF-8. */
  encodedName?: string;
}

export interface EntriesPage {
  path: string;
  total: number;
  next: string;
  entries: Entry[];
}

export interface Stat extends Entry {
  uid: number;
  gid: number;
  inode: number;
  links: number;
  lastChanged: string;
  lastAccessed: string;
  etag: string;
}

export interface Usage {
  disk: number;
  apparent: number;
  files: number;
  directories: number;
  unreadable: number;
  filesystemSize: number;
  filesystemFree: number;
}

export interface NameMatch {
  path: string;
  type: string;
}

export interface ContentMatch {
  path: string;
  line: number;
  column: number;
  text: string;
  context?: string;
}

export interface Changes {
  path: string;
  cursor: string;
  reset: boolean;
  created: string[];
  changed: string[];
  deleted: string[];
}
