import type { PageProps } from "..";
import { PageHead } from "../../ui";

export default function Page(_props: PageProps) {
  return (
    <div class="page">
      <PageHead title="API" />
    </div>
  );
}
