/** Swagger UI, which is React inside: its own component tree in an element of ours.
 *
 * It does not give back what it has taken, so it is made once and shown again.
 */

import SwaggerUI from "swagger-ui-dist/swagger-ui-es-bundle.js";
import "swagger-ui-dist/swagger-ui.css";
import { shown as credentials } from "../../app/session";
import { resolved } from "./references";
import "./api.css";

type System = { specActions: { updateJsonSpec(spec: unknown): void } };

/** What Swagger UI does with a description in seconds, since it may be YAML and refer to others: ours is neither. */
const PLAIN_JSON = {
  fn: {
    resolveSubtree: (spec: unknown, path: string[]) => Promise.resolve({ spec: resolved(spec, path), errors: [] }),
  },
  statePlugins: {
    spec: {
      wrapActions: {
        parseToJson: (_read: unknown, system: System) => (text: string) =>
          system.specActions.updateJsonSpec(JSON.parse(text)),
      },
    },
  },
};

let made: HTMLElement | undefined;

/** The element that shows a description, which is asked for the first time only. */
export function viewer(spec: () => Promise<Record<string, unknown>>): Promise<HTMLElement> {
  return made ? Promise.resolve(made) : spec().then(make);
}

function make(spec: Record<string, unknown>): Promise<HTMLElement> {
  const place = document.createElement("div");
  return new Promise((resolve) => {
    SwaggerUI({
      domNode: place,
      spec,
      deepLinking: false, // the hash is the console's
      docExpansion: "list",
      defaultModelsExpandDepth: -1,
      displayRequestDuration: true,
      filter: true,
      persistAuthorization: false,
      requestInterceptor: (request: { headers: Record<string, string> }) => {
        Object.assign(request.headers, credentials());
        return request;
      },
      syntaxHighlight: { activated: true, theme: "agate" },
      tryItOutEnabled: false,
      validatorUrl: null,
      plugins: [PLAIN_JSON],
      onComplete: () => {
        made = place;
        resolve(place);
      },
    });
  });
}
