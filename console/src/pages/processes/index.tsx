import type { PageProps } from "../page";
import { Detail } from "./Detail";
import { List } from "./List";

export default function ProcessesPage({ path, query }: PageProps) {
  const [id] = path;
  return id ? <Detail key={id} id={id} tab={query.get("tab") ?? "output"} /> : <List query={query} />;
}
