"""Where known programs take secrets by position: `mysql -p…`, `curl -u user:…`, `vault write …`."""

import re
from collections.abc import Callable, Iterator

from sandkeeper.patterns import for_good, pattern

__all__ = ["hidden_words"]

_QUOTED = '"' + for_good(r'[^"\\]++|\\.', "*") + '"?'
_WORD = pattern(
    for_good(rf"""[^\s"'`;|&()<>\\]++|\\.|{_QUOTED}|'[^']*+'?""", "+")
    + r"""|\n|[;|&()]+|`|[<>]+""",
    re.DOTALL,
)
_ENDS = frozenset(("\n", "`"))
_BEFORE = frozenset(
    re.split(" ", "sudo env exec time nohup nice command builtin then do else export if while !")
)
_PREFIX_OPTIONS = frozenset(("-u", "-g", "-n", "-H"))

Span = tuple[int, int]


class Words:
    """The words of one simple command, with their places in the text."""

    def __init__(self, text: str, spans: list[Span]) -> None:
        self.text = text
        self.spans = spans
        self.words = [_plain(text[start:end]) for start, end in spans]

    def whole(self, number: int) -> Iterator[Span]:
        """Yield the place of a word, inside of its quotes."""
        if number < len(self.spans):
            start, end = self.spans[number]
            if (
                self.text[start] in "\"'"
                and self.text[end - 1] == self.text[start]
                and end - start > 1
            ):
                start, end = start + 1, end - 1
            yield start, end

    def behind(self, number: int, mark: str) -> Iterator[Span]:
        """Yield what stands behind the first `mark` in a word; nothing without one."""
        for start, end in self.whole(number):
            place = self.text.find(mark, start, end)
            if place >= 0:
                yield place + len(mark), end


Rule = Callable[[Words], Iterator[Span]]


def _option(*names: str, mark: str = "", attached: bool = True) -> Rule:
    """Hide the value of options: the next word, what is attached, what stands behind `=`.

    With `mark` only what stands behind it in the value: `-u user:password`.
    """

    def rule(words: Words) -> Iterator[Span]:
        for number, word in enumerate(words.words):
            following = words.words[number + 1 : number + 2]
            for name in names:
                if word == name and following and not following[0].startswith("-"):
                    yield from words.behind(number + 1, mark) if mark else words.whole(number + 1)
                elif word.startswith(f"{name}=") and name.startswith("--"):
                    yield from _value(words, number, len(name) + 1, mark)
                elif (
                    attached and word.startswith(name) and len(word) > len(name) and name[1] != "-"
                ):
                    yield from _value(words, number, len(name), mark)

    return rule


def _value(words: Words, number: int, skip: int, mark: str) -> Iterator[Span]:
    for start, end in words.whole(number):
        if mark:
            place = words.text.find(mark, start + skip, end)
            if place >= 0:
                yield place + len(mark), end
        else:
            yield start + skip, end


def _only(verb: str, rule: Rule) -> Rule:
    """Apply a rule where a verb is among the first words: `docker login -p`, not `docker run`."""
    return lambda words: rule(words) if verb in words.words[1:4] else iter(())


def _behind(*verbs: str, mark: str = "=") -> Rule:
    """Hide what stands behind `mark` in every word, where one of the verbs is among them."""

    def rule(words: Words) -> Iterator[Span]:
        if not verbs or set(verbs) & set(words.words[1:4]):
            for number in range(1, len(words.words)):
                if not words.words[number].startswith("-") or mark != "=":
                    yield from words.behind(number, mark)

    return rule


def _after(*verbs: str, skip: int = 0, only: int = 99) -> Rule:
    """Hide the words that follow a sequence of verbs, `skip` of them left out."""

    def rule(words: Words) -> Iterator[Span]:
        size = len(verbs)
        for number in range(1, len(words.words)):
            if tuple(words.words[number : number + size]) == verbs:
                first = number + size + skip
                for place in range(first, min(first + only, len(words.words))):
                    if not words.words[place].startswith("-"):
                        yield from words.whole(place)
                return

    return rule


def _aws(words: Words) -> Iterator[Span]:
    """`aws configure set aws_secret_access_key VALUE`."""
    for number, word in enumerate(words.words[:-2]):
        name = words.words[number + 1].lower()
        if word == "set" and any(part in name for part in ("secret", "token", "key")):
            yield from words.whole(number + 2)


def _openssl(words: Words) -> Iterator[Span]:
    for number, word in enumerate(words.words):
        if word in {"-passin", "-passout", "-pass", "-password"}:
            yield from words.behind(number + 1, "pass:")
        elif word in {"-k", "-K", "-hmac", "-macopt"}:
            yield from words.whole(number + 1)


def _fed(words: Words) -> Iterator[Span]:
    for number in range(1, len(words.words)):
        if not words.words[number].startswith("-"):
            yield from words.whole(number)


def _htpasswd(words: Words) -> Iterator[Span]:
    """`htpasswd -b FILE USER PASSWORD`, `htpasswd -nb USER PASSWORD`."""
    if any(word.startswith("-") and "b" in word for word in words.words[1:]):
        yield from words.whole(len(words.words) - 1)


def _attached_p(words: Words) -> Iterator[Span]:
    for number, word in enumerate(words.words):
        if word.startswith("-p") and len(word) > 2:
            yield from _value(words, number, 2, "")


def _mysql(words: Words) -> Iterator[Span]:
    """-p takes its value only attached: the next word is the database."""
    yield from _attached_p(words)
    yield from _option("--password")(words)
    if "password" in words.words:
        yield from _after("password", only=1)(words)


_LOGIN = _only("login", _option("-p", "--password", attached=False))
_LITERAL = _option("--from-literal", mark="=")
_SMB = _option("-U", "--user", mark="%")

_TABLE: tuple[tuple[str, tuple[Rule, ...]], ...] = (
    ("mysql mysqldump mysqladmin mysqlimport mariadb mariadb-dump mariadb-admin", (_mysql,)),
    ("redis-cli valkey-cli", (_option("-a", "--pass"),)),
    ("curl", (_option("-u", "--user", "-U", "--proxy-user", mark=":"),)),
    ("curl", (_option("-b", "--cookie", mark="="), _option("-E", "--cert", mark=":"))),
    ("curl", (_option("--oauth2-bearer", "--pass", "--proxy-pass"),)),
    ("wget", (_option("--password", "--http-password", "--ftp-password", "--proxy-password"),)),
    ("sshpass", (_option("-p"),)),
    ("docker podman nerdctl buildah skopeo crane helm oras az oc", (_LOGIN,)),
    ("podman buildah skopeo", (_option("--creds", "--src-creds", "--dest-creds", mark=":"),)),
    ("vault bao", (_behind("write", "kv", "patch"), _after("login", only=1))),
    ("openssl", (_openssl,)),
    ("aws", (_aws,)),
    ("gh", (_only("secret", _option("--body", "-b")),)),
    ("glab", (_option("-t", "--token"),)),
    ("kubectl oc", (_option("--token", "--password"), _LITERAL)),
    ("mongo mongosh mongodump mongorestore mongoexport mongoimport cqlsh", (_option("-p"),)),
    ("lftp", (_option("-u", "--user", mark=","),)),
    ("ftp", (_option("-u", mark=":"),)),
    ("smbclient rpcclient smbget net smbmap winexe", (_SMB,)),
    ("ldapsearch ldapmodify ldapadd ldapdelete ldapwhoami ldappasswd", (_option("-w"),)),
    ("http https xh", (_option("-a", "--auth", mark=":"),)),
    ("ab", (_option("-A", "-P", mark=":"),)),
    ("zip unzip sqlcmd bcp mosquitto_pub mosquitto_sub", (_option("-P", "--pw"),)),
    ("7z 7za 7zr rar unrar", (_attached_p,)),
    ("htpasswd", (_htpasswd,)),
    ("ssh-keygen", (_option("-N", "-P", attached=False),)),
    ("ipmitool", (_option("-P"),)),
    ("twine", (_option("-p", "--password"),)),
    ("xfreerdp xfreerdp3", (_option("/p:"),)),
    ("snmpwalk snmpget", (_option("-c", "-A", "-X"),)),
    ("npm pnpm yarn", (_behind("config", "set", mark="_authToken="),)),
    ("npm pnpm yarn", (_after("_auth", only=1), _after("_password", only=1))),
    ("heroku", (_behind("config:set"),)),
    ("flyctl fly", (_behind("secrets"),)),
    ("influx", (_option("-t", "--token", "-p", "--password"),)),
    ("rabbitmqctl", (_after("add_user", skip=1, only=1),)),
    ("rabbitmqctl", (_after("change_password", skip=1, only=1),)),
    ("rabbitmqadmin useradd usermod", (_option("-p", "--password", attached=False),)),
    ("nmcli", (_after("password", only=1),)),
    ("wpa_passphrase", (lambda words: words.whole(2),)),
)
_PROGRAMS: dict[str, list[Rule]] = {}
for _names, _rules in _TABLE:
    for _name in _names.split():
        _PROGRAMS.setdefault(_name, []).extend(_rules)

_READERS = frozenset(("chpasswd", "passwd", "--password-stdin", "--with-token", "-S", "--stdin"))


def hidden_words(text: str) -> Iterator[Span]:
    """Yield, in order, the places of secrets in a text read as shell commands."""
    found: list[Span] = []
    before: Words | None = None
    for words, sign in _commands(text):
        program = words.words[0].rpartition("/")[2] if words.words else ""
        for rule in _PROGRAMS.get(program, ()):
            found += rule(words)
        if before is not None and _READERS & {program, *words.words[1:]}:
            found += _fed(before)
        before = words if sign == "|" and program in {"echo", "printf"} else None
    yield from sorted(set(found))


def _commands(text: str) -> Iterator[tuple[Words, str]]:
    """Yield simple commands and the sign that ends each; assignments in front are left out."""
    spans: list[Span] = []
    for found in _WORD.finditer(text):
        sign = found[0]
        if sign[0] in ";|&()" or sign in _ENDS:
            yield _simple(text, spans), sign
            spans = []
        elif sign[0] not in "<>":
            spans.append(found.span())
    yield _simple(text, spans), ""


def _simple(text: str, spans: list[Span]) -> Words:
    first = 0
    while first < len(spans):
        word = text[slice(*spans[first])]
        if word in _BEFORE or (word.isascii() and re.match(r"[A-Za-z_]\w*+=", word)):
            first += 1
        elif first and word.startswith("-") and word[:2] in _PREFIX_OPTIONS:
            first += 2 if word in {"-u", "-g", "-n"} else 1
        else:
            break
    return Words(text, spans[first:])


def _plain(word: str) -> str:
    """Return a word without its quotes, as far as the options of programs need it."""
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word
