/** Swagger UI, which is React inside: its own component tree in an element of ours. */

import SwaggerUI from "swagger-ui-dist/swagger-ui-es-bundle.js";
import "swagger-ui-dist/swagger-ui.css";
import { shown as credentials } from "../../app/session";
import "./api.css";

const shown = new WeakMap<HTMLElement, { unmount?(): void }>();

export function show(place: HTMLElement, spec: Record<string, unknown>, done: () => void): void {
  const system = SwaggerUI({
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
    onComplete: done,
  });
  shown.set(place, system);
}

export function hide(place: HTMLElement): void {
  shown.get(place)?.unmount?.();
  shown.delete(place);
}
