/** Modes as `ls` writes them, and as digits. */

const LETTERS = "rwx";

/** `640` as `rw-r-----`, with `s` and `t` for the special bits. */
export function modeText(digits: string): string {
  const mode = parseInt(digits, 8) || 0;
  const text = [6, 3, 0].flatMap((shift) =>
    [4, 2, 1].map((bit, index) => ((mode >> shift) & bit ? LETTERS.charAt(index) : "-")),
  );
  const special: [number, number, string][] = [
    [0o4000, 2, "s"],
    [0o2000, 5, "s"],
    [0o1000, 8, "t"],
  ];
  for (const [bit, place, letter] of special) {
    if (mode & bit) text[place] = text[place] === "x" ? letter : letter.toUpperCase();
  }
  return text.join("");
}

export function isMode(digits: string): boolean {
  return /^[0-7]{1,4}$/.test(digits.trim());
}

export const KINDS: Record<string, string> = {
  file: "File",
  directory: "Folder",
  symlink: "Link",
  fifo: "Named pipe",
  socket: "Socket",
  "character-device": "Character device",
  "block-device": "Block device",
};
