/** What a page is given: the rest of its address. */

export interface PageProps {
  path: string[];
  query: URLSearchParams;
}
