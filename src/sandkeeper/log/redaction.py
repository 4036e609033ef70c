"""What of a text may stand in a log: secrets are replaced by `[REDACTED]`. One definition for all.

    is_secret         whether a name says that its value is one
    redact_query      the query of an address
    redact_command    a command line, or any other text: what a person would see is a secret

A secret shows itself by its name (`DB_PASSWORD=…`, `"token": "…"`, `--api-key …`,
`-H 'X-Api-Key: …'`), by its place (`mysql -p…`, `curl -u user:…`, `https://user:…@host`) or by its
shape (`ghp_…`, a JSON web token, a private key). Best effort: what shows itself in no way stays.
Patterns are possessive and passes few, so the time grows with the length of the text, whatever it
is; no text makes a function raise.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import parse_qsl, quote_plus, unquote_plus

from sandkeeper.log.redaction_programs import hidden_words
from sandkeeper.patterns import for_good, pattern

__all__ = ["COMMAND_CHARACTERS", "HIDDEN", "SECRETS", "is_secret", "redact_command", "redact_query"]


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


HIDDEN = "[REDACTED]"
COMMAND_CHARACTERS = 16 << 10

SECRETS = _listed(
    "api_key apikey api-key token access_token refresh_token auth_token bearer password passwd "
    "pwd secret client_secret api_secret key private_key encryption_key authorization auth "
    "credential credentials session session_id sessionid jwt"
)
"""Names that are secret whatever else is decided below: the contract's list."""

_WORDS = _listed(
    "pass password passwords passwd passwort passphrase passcode pw pwd secret secrets token "
    "tokens key apikey accesskey secretkey privatekey authkey pat cred creds credential "
    "credentials auth authorization authentication bearer jwt sig signature session sessionid "
    "cookie otp totp pin psk hmac"
)
_ENDINGS = tuple(
    _listed(
        "password passwd passphrase secret token apikey accesskey secretkey privatekey credential "
        "credentials authkey pwd pass"
    )
)
_INNOCENT = _listed("bypass compass overpass underpass trespass encompass")
_STRONG = _listed("pass password passwords passwd passwort passphrase passcode secret")
_PLAIN_KEYS = _listed(
    "primary foreign public sort partition cache index row range group map object routing"
)
_SHELL_NAMES = frozenset(("PWD", "OLDPWD", "PATH"))
_PLACES = _listed("file files path dir folder")
_ADDRESSES = _listed("url uri endpoint host server")
_PARTS = pattern(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[A-Z]+")

_PEM = pattern(
    r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----)" + for_good(r"[^-]++|-(?!----END)", "*")
)
_SHAPES = pattern(
    r"""(?x)(?<![A-Za-z0-9_])(?:
      gh[pousr]_[A-Za-z0-9]{16,}+ | github_pat_[A-Za-z0-9_]{20,}+ | glpat-[\w-]{16,}+
    | sk-[A-Za-z0-9_-]{16,}+ | [sr]k_(?:live|test)_[A-Za-z0-9]{10,}+ | whsec_[A-Za-z0-9+/=]{16,}+
    | (?:AKIA|ASIA)[A-Z0-9]{12,}+ | xox[a-z]-[A-Za-z0-9-]{8,}+ | xapp-[A-Za-z0-9-]{8,}+
    | npm_[A-Za-z0-9]{20,}+ | pypi-[\w-]{20,}+ | hf_[A-Za-z0-9]{16,}+ | AIza[\w-]{20,}+
    | ya29\.[\w.-]{16,}+ | SG\.[\w-]{16,}+\.[\w-]{16,}+ | dop_v1_[a-f0-9]{32,}+
    | hv[sb]\.[\w-]{16,}+
    | eyJ[\w-]{8,}+\.[\w-]{4,}+(?:\.[\w-]*+)?
    | shp(?:at|ss|ca|pa)_[a-fA-F0-9]{16,}+ | AGE-SECRET-KEY-1[A-Z0-9]{16,}+
    )"""
)
_URL = pattern(r"([A-Za-z][A-Za-z0-9+.-]{0,30})://([^\s/\"'`<>?#]++)")
_SCHEME = pattern(
    r"\b(authorization\s{0,4}[:=]\s{0,4}(?:[\w-]{1,20}\s{1,4})?|(?:bearer|basic|negotiate)\s{1,4})"
    r"""(?![-:=])([^\s"'`\\]++)""",
    re.IGNORECASE,
)
_NAME = pattern(
    r"""(?<![\w.$/@%-])(-{0,2}+[A-Za-z_][\w.-]*+)(\\?["']?\]?)"""
    r"""(\s{0,8}+(?:=(?![=>])|=>(?=\s{0,8}["'])|:(?![:/\\]))\s{0,8}+)"""
)
_NPM = pattern(r"""(:_(?:authToken|auth|password)\s{0,4}[= ]\s{0,4})([^\s"']++)""")
_OPTION = pattern(r"(?<!\S)(--?[A-Za-z][\w.-]*+)(\s++)(?=[^\s-])")
_PURE_REFERENCE = pattern(r"\$(?:[A-Za-z_]\w*+|\{[A-Za-z_]\w*+\})")
_DONE = pattern(r"(?:[\w-]{1,20}\s{1,4})?\[REDACTED\]")
_SPACE = pattern(r"\s")
_QUOTE = pattern(r"\\?[\"']")
_ABSENT = pattern(r"(?i:none|null|nil|undefined|true|false)[?!.]?")
_NOTHING = pattern(r"(?i:true|false|yes|no|on|off|none|null|nil|undefined)|\d{1,6}(?:[.,]\d{1,3})*")
_BARE = pattern(r"[^\s\"'`&;|<>(){}\[\],\\]++")
_LOOSE = pattern(r"(?<![^&=;?])([^&=;?]++)=([^&;]*+)")
_BAD_ESCAPE = pattern(r"%(?![0-9A-Fa-f]{2})")


def _parts(name: str) -> list[str]:
    return [part.lower() for part in _PARTS.findall(name[:200])]


def _is_word(part: str) -> bool:
    return part in _WORDS or (part.endswith(_ENDINGS) and part not in _INNOCENT)


@lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Say whether a name tells that its value is a secret, by the words it is made of.

    `DB_PASSWORD`, `x-api-key`, `authToken` and `GH_PAT` do; `monkey`, `PATH`, `author` and
    `primary_key` do not.
    """
    name = name.strip().lstrip("-")
    if name.lower() in SECRETS and name not in _SHELL_NAMES:
        return True
    if name in _SHELL_NAMES:
        return False
    parts = _parts(name)
    found = [number for number, part in enumerate(parts) if _is_word(part)]
    if found and all(parts[number] == "key" for number in found):
        return any(not (n and parts[n - 1] in _PLAIN_KEYS) for n in found) and (
            found[-1] >= len(parts) - 2
        )
    return bool(found)


def _is_harmless(name: str, value: str) -> bool:
    """Say whether the value behind a secret name is none: a switch, a number, a place."""
    parts = _parts(name)
    if not value or _PURE_REFERENCE.fullmatch(value) or _DONE.fullmatch(value):
        return True
    last = parts[-1] if parts else ""
    if last in _PLACES and value[0] in "/.~":
        return True
    if last in _ADDRESSES and "://" in value:
        return True
    if _ABSENT.fullmatch(value):
        return True
    if any(part in _STRONG or part.endswith("password") for part in parts):
        return False
    if last == "key" and value[0] in "/.~" and value.endswith((".pem", ".key", ".crt")):
        return True
    return _NOTHING.fullmatch(value) is not None


def redact_query(query: str) -> str:
    """Return `query` with the values of secret names replaced; untouched when it has none.

    A query with secrets is written again with sorted keys; one that cannot be parsed is mended by
    pattern, with a literal `[REDACTED]`.
    """
    if not query:
        return query
    if _BAD_ESCAPE.search(query) or ";" in query:
        return _SHAPES.sub(
            HIDDEN,
            _LOOSE.sub(
                lambda m: f"{m[1]}={HIDDEN}" if is_secret(unquote_plus(m[1])) else m[0], query
            ),
        )
    try:
        pairs = parse_qsl(query, keep_blank_values=True)
    except ValueError:  # more fields than anybody may ask to have parsed
        return HIDDEN
    if not any(is_secret(name) or _SHAPES.search(value) for name, value in pairs):
        return query
    merged: dict[str, list[str]] = {}
    for name, value in pairs:
        if is_secret(name):
            merged[name] = [HIDDEN]
        else:
            merged.setdefault(name, []).append(_SHAPES.sub(HIDDEN, value))
    return "&".join(
        f"{quote_plus(name)}={quote_plus(value)}"
        for name in sorted(merged)
        for value in merged[name]
    )


def redact_command(command: str) -> str:
    """Return a text without the secrets that show themselves as such.

    Of a very long one only the beginning is returned. The result has at most
    `COMMAND_CHARACTERS` and a remark of 40 characters more.
    """
    size = len(command)
    text = command[:COMMAND_CHARACTERS]
    # Each is asked only where the signs stand without which it finds nothing: most lines have few.
    if "-----BEGIN" in text:
        text = _PEM.sub(rf"\1{HIDDEN}", text)
    if "://" in text:
        text = _URL.sub(_without_userinfo, text)
    has_words = _SPACE.search(text) is not None
    if has_words:
        text = _replaced(text, hidden_words(text))
    if ":_" in text:
        text = _NPM.sub(rf"\1{HIDDEN}", text)
    has_names = "=" in text or ":" in text
    if has_words or has_names:
        text = _SCHEME.sub(_without_credentials, text)
    if has_names:
        text = _replaced(text, _named(text))
    if has_words and "-" in text:
        text = _replaced(text, _options(text))
    text = _SHAPES.sub(HIDDEN, text)
    if size > COMMAND_CHARACTERS or len(text) > COMMAND_CHARACTERS:
        text = f"{text[:COMMAND_CHARACTERS]}… ({size} characters)"
    return text


def _replaced(text: str, places: "Iterator[tuple[int, int]]") -> str:
    """Replace spans that come in order; one that begins inside of another is left out."""
    made, done = [], 0
    for start, end in places:
        if start >= done and end > start:
            made += [text[done:start], HIDDEN]
            done = end
    return "".join([*made, text[done:]]) if made else text


def _without_userinfo(found: "re.Match[str]") -> str:
    scheme, rest = found[1], found[2]
    user, at, host = rest.rpartition("@")
    if not at:
        return found[0]
    name, colon, _ = user.partition(":")
    if colon:
        return f"{scheme}://{name}:{HIDDEN}@{host}"
    if scheme.lower().startswith(("ssh", "git+ssh", "sftp", "rsync", "ftp")):
        return found[0]  # a user's name alone, as in ssh://git@host
    return f"{scheme}://{HIDDEN}@{host}"


def _without_credentials(found: "re.Match[str]") -> str:
    # "basic usage" and "bearer of news" are words; credentials are longer or have other letters.
    plain = found[2].isalpha() and found[2].islower()
    if not found[1].lower().startswith("authorization") and (plain or len(found[2]) < 4):
        return found[0]
    return f"{found[1]}{HIDDEN}"


def _named(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the values of secret names are: NAME=value, name: value, "name": "value"."""
    done = 0
    for found in _NAME.finditer(text):
        name, quote, sign = found[1], found[2], found[3]
        start = found.end()
        if start < done or not is_secret(name):
            continue
        if ":" in sign and not quote and not _is_header_or_field(text, found):
            continue
        if sign != "=" and "=" in sign and not quote and name.startswith("-"):
            continue
        end = _end_of_value(text, start, shell="=" in sign, whole=_is_in_quotes(text, found))
        if not _is_harmless(name, text[start:end].strip("\"'\\")):
            yield _inside_quotes(text, start, end)
            done = end


def _is_header_or_field(text: str, found: "re.Match[str]") -> bool:
    """Say whether `name:` is a header or a field of YAML, and not a word of prose or an image."""
    name, sign = found[1], found[3]
    parts = _parts(name)
    strong = len(parts) > 1 or any(part in _STRONG for part in parts) or parts[-1:] == ["token"]
    if not sign.endswith((" ", "\t", "\n")) and text[found.end() : found.end() + 1] not in "\"'\\":
        return bool(_is_in_quotes(text, found)) and strong
    return strong or parts[-1:] in (["cookie"], ["apikey"], ["authorization"])


def _is_in_quotes(text: str, found: "re.Match[str]") -> str:
    """Return the quote right before the name, if its value ends with the same one."""
    before = text[found.start() - 1 : found.start()] if found.start() else ""
    return before if before in {'"', "'"} and not found[2] else ""


def _end_of_value(text: str, start: int, *, shell: bool, whole: str) -> int:
    """Return where a value ends: with its quote, its bracket, its word, or its line.

    `whole` is the quote that the name stands behind: a header ends there, a word of a `shell`
    where it does.
    """
    if text.startswith(("$(", "`"), start):
        end = text.find(")" if text[start] == "$" else "`", start + 2)
        return len(text) if end < 0 else end + 1
    opened = _QUOTE.match(text, start)
    if opened:
        return _end_of_quoted(text, opened)
    if whole and not shell:
        end = text.find(whole, start)
        return len(text) if end < 0 else end
    bare = _BARE.match(text, start)
    end = bare.end() if bare else start
    return _end_of_word(text, start, end, once=bool(whole)) if shell else end


def _end_of_quoted(text: str, opened: "re.Match[str]") -> int:
    quote = opened[0]
    end = text.find(quote, opened.end())
    while quote == '"' and end > 0 and text[end - 1] == "\\":
        end = text.find(quote, end + 1)
    return len(text) if end < 0 else end + len(quote)


def _end_of_word(text: str, start: int, end: int, *, once: bool) -> int:
    """abc"def" is one word, unless the quote ends what the word stands in."""
    while end < len(text) and text[end] in "\"'":
        close = text.find(text[end], end + 1)
        if close < 0 or text.count(text[end], 0, start) % 2:
            break
        rest = _BARE.match(text, close + 1)
        end = rest.end() if rest else close + 1
        if once:
            break
    return end


def _inside_quotes(text: str, start: int, end: int) -> tuple[int, int]:
    for quote in ('\\"', "\\'", '"', "'"):
        if text.startswith(quote, start) and text.endswith(quote, start + len(quote), end):
            return start + len(quote), end - len(quote)
    return start, end


def _options(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the values of secret options are: `--password VALUE`."""
    for found in _OPTION.finditer(text):
        name = found[1]
        if not is_secret(name) or (not name.startswith("--") and len(name) < 4):
            continue
        end = _end_of_value(text, found.end(), shell=True, whole="")
        if not _is_harmless(name, text[found.end() : end].strip("\"'")):
            yield _inside_quotes(text, found.end(), end)
