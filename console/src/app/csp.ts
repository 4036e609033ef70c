/** Lets libraries style what they show under a policy that forbids inline styles.
 *
 * xterm.js and CodeMirror make `<style>` elements and write `style` attributes. The first get the
 * nonce that the server put into this page, the second go by the CSSOM, which the policy allows.
 * No script of anybody else runs here, so this opens nothing to others.
 */

const meta = document.querySelector<HTMLMetaElement>('meta[name="console-nonce"]');
export const nonce = meta?.content ?? "";
meta?.remove();

const create = Document.prototype.createElement;
Document.prototype.createElement = function createElement(
  this: Document,
  name: string,
  options?: ElementCreationOptions,
) {
  const made = create.call(this, name, options) as HTMLElement;
  if (made instanceof HTMLStyleElement) {
    made.nonce = nonce;
  }
  return made;
} as typeof Document.prototype.createElement;

const set = Element.prototype.setAttribute;
Element.prototype.setAttribute = function setAttribute(name: string, value: string) {
  if (name === "style" && (this instanceof HTMLElement || this instanceof SVGElement)) {
    this.style.cssText = value;
  } else {
    set.call(this, name, value);
  }
};
