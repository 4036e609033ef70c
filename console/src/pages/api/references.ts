/** Puts what a JSON document's references within itself lead to in their place. */

type Json = Record<string, unknown>;

/** Return the part at a path without references; one that leads back into itself stays. */
export function resolved(document: unknown, path: string[]): unknown {
  return inlined(document, part(document, path), new Set());
}

function inlined(document: unknown, value: unknown, within: Set<string>): unknown {
  if (Array.isArray(value)) return value.map((one) => inlined(document, one, within));
  if (!isObject(value)) return value;
  const { $ref, ...beside } = value;
  if (typeof $ref !== "string") {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, inlined(document, one, within)]));
  }
  if (!$ref.startsWith("#/") || within.has($ref)) return value;
  const names = $ref.slice(2).split("/").map((name) => name.replaceAll("~1", "/").replaceAll("~0", "~"));
  const target = inlined(document, part(document, names), new Set([...within, $ref]));
  // Swagger UI takes a schema's name from here.
  return isObject(target) ? { ...target, ...beside, $$ref: $ref } : target;
}

function part(document: unknown, path: string[]): unknown {
  return path.reduce<unknown>((found, name) => (isObject(found) || Array.isArray(found) ? (found as Json)[name] : undefined), document);
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
