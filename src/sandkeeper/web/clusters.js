// Grapheme clusters for xterm.js, as the server's screens keep them: a cell holds what UAX 29 calls one character, two columns
// of it at most. Widths are add-on unicode11's; boundaries are those of Intl.Segmenter.
// An own provider, because of @xterm/addon-unicode-graphemes 0.4 takes each emoji for one column.
function clusterProvider(Unicode11Addon) {
  "use strict";
  const MOST_CHARACTERS = 32;
  const KEPT = 256;
  const segmenter = new Intl.Segmenter("en", { granularity: "grapheme" });
  const WIDE = /^(?:\p{Emoji_Presentation}|\ufe0f)$/u;
  const NONE = /^(?:\p{Mn}|\p{Me}|\p{Cf})$/u;
  // A state is 24 bits of kind: an ASCII character, or the number of a longer cluster in `clusters`.
  const clusters = [];
  let newest = KEPT;
  let widths = null;
  new Unicode11Addon.Unicode11Addon().activate({ unicode: { register(provider) { widths = provider; } } });

  function wcwidth(code) {
    if (code >= 32 && code < 127) return 1;
    const char = String.fromCodePoint(code);
    if (code !== 0xfe0f && WIDE.test(char)) return 2;
    return code !== 0xad && NONE.test(char) ? 0 : widths.wcwidth(code);
  }

  function state(text, width, joined) {
    let kind = text.charCodeAt(0);
    if (text.length > 1 || kind > 126) {
      kind = newest = newest < 0xffffff ? newest + 1 : KEPT;
      clusters[kind % KEPT] = { kind, text };
    }
    return (kind << 3) | (width << 1) | joined;
  }

  function textOf(kind) {
    if (kind < 127) return String.fromCharCode(kind);
    const kept = clusters[kind % KEPT];
    return kept && kept.kind === kind ? kept.text : "";
  }

  function charProperties(code, preceding) {
    const ascii = code >= 32 && code < 127;
    const kind = preceding >>> 3;
    if (ascii && kind < 127) return (code << 3) | 2;
    const char = String.fromCodePoint(code);
    const width = wcwidth(code);
    const before = kind ? textOf(kind) : "";
    if (before && before.length < MOST_CHARACTERS * 2) {
      const old = (preceding >> 1) & 3;
      if (width === 0 || [...segmenter.segment(before + char)].at(-1).index < before.length) {
        const widened = code === 0xfe0f && /^\p{Emoji}/u.test(before) ? 2 : Math.min(2, old + width);
        const spacing = /^\p{Mc}$/u.test(char) && width === 0 ? 1 : 0;
        return state(before + char, Math.max(old, Math.min(2, widened + spacing)), 1);
      }
    }
    return state(char, width, 0);
  }

  return { version: "clusters", wcwidth, charProperties };
}
