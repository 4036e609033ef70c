import { Download } from "lucide-preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { api, ApiError, apiUrl } from "../../api/client";
import { root } from "../../app/place";
import { Failure, LinkButton, Loading, PageHead } from "../../ui";


/** The description of every route, with "try it": Swagger UI, loaded when this page is. */
export default function ApiPage() {
  const place = useRef<HTMLDivElement>(null);
  const [error, setError] = useState<unknown>(null);
  const [ready, setReady] = useState(false);
  const [tries, setTries] = useState(0);

  useEffect(() => {
    const control = new AbortController();
    setError(null);
    void shown(control.signal);
    return () => control.abort();
  }, [tries]);

  async function shown(signal: AbortSignal): Promise<void> {
    try {
      const { viewer } = await import("./swagger");
      const element = await viewer(async () => ({
        ...(await api.get<Record<string, unknown>>("/openapi.json")),
        servers: [{ url: root.href.replace(/\/$/, "") }],
      }));
      if (signal.aborted) return;
      place.current?.replaceChildren(element);
      setReady(true);
    } catch (caught) {
      if (!signal.aborted) setError(caught instanceof ApiError ? caught : "The viewer could not be loaded.");
    }
  }

  return (
    <div class="page api">
      <PageHead title="API">
        <LinkButton icon={Download} href={apiUrl("/openapi.json")} download="openapi.json">
          OpenAPI 3.1
        </LinkButton>
        <LinkButton icon={Download} href={apiUrl("/swagger/doc.json")} download="swagger.json">
          Swagger 2.0
        </LinkButton>
      </PageHead>
      <p class="muted api-intro">
        Every route of this server. “Try it out” sends real requests with the rights of your session: what it starts, writes or
        deletes is started, written or deleted.
      </p>
      {error ? <Failure error={error} retry={() => setTries(tries + 1)} /> : ready ? null : <Loading label="Reading the description" />}
      <div ref={place} class="api-place" hidden={!ready} />
    </div>
  );
}
