"""Rule sets and URLs for the benchmark: made up, seeded, the same on every machine.

``dot``: each rule is ``^.*name\\.tld.*$``, the form that block lists are most often turned into.
``mix``: what people write by hand and what list converters make, with look-around, back-references
and, from 1,000 rules on, ten rules without any text to look them up by.

Domains are half of words and half of letters that follow each other as they do in URLs.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

WORDS = """
    about account admin air app apple art auto baby bank beach best big bike bio bit blog blue board
    body book box brand bridge buy cafe camp car card care cash cat center chat check city class
    clean click clinic cloud club coach code coin college color company cook cool crypto data date
    deal dental design digital direct dog door dream drive easy eco edu energy expert express eye
    family farm fashion fast film finance fire fish fit flow food football forum free fresh fun
    future game garden gift girl global gold golf good grand green group guide hair happy health
    heart help home host hotel house idea image info insurance invest job jewel key kids king
    kitchen lab land law leader learn life light line link list live loan local love lucky luxury
    mail market master media medical meta mind mobile money moon motor movie music net news next
    night north office online open organic outdoor page paper park party pay pet phone photo planet
    play plus point pool power press price prime pro project quick radio real red rent review
    river road rock room run safe sale school sea search secret security seo service shop show
    sky smart snow social soft solar solution song sound source south space sport spring star store
    story street studio style sun super support sweet system team tech test time today tool top
    tour toy trade travel tree trip true trust tube tv united up vape vegan video view villa vip
    voice water wave wealth web wedding west wine wolf wood work world yoga young zen zone
""".split()
PATH_WORDS = """
    article assets blog cart catalog category collections content css current de default detail
    download en events feed fonts gallery help images img index item js latest library login main
    media min news page photos post posts product products profile public questions search
    shared static storage story tag thumbs topics upload user users v1 v2 video watch wiki
""".split()
AD_WORDS = """
    adserver adframe bannerad popunder clickthru tracker beacon pixel sponsor affiliate doubleclk
    adzone adtech interstitial promo telemetry metrics stats counter impression syndication
""".split()
TLDS = "com net org ru de info xyz top co.uk io fr online shop nl br.com pl it site club in".split()
TLD_WEIGHTS = [45, 8, 8, 6, 5, 5, 5, 3, 3, 3, 3, 2, 2, 2, 1, 2, 2, 2, 1, 1]

WEAK = [
    r"/[a-f0-9]{32}\.php",
    r"^https?://[0-9]{1,3}(\.[0-9]{1,3}){3}(:\d+)?/[a-z]{1,8}\.exe$",
    r"[?&]id=[0-9]{14,}$",
    r"/[A-Z]{9}[0-9]{9}/",
    r"^https?://[^/]{120,}/",
    r"^https?://(\w)\1{5,}\.",
    r"(?i)\.(scr|pif|cmd)$",
    r"^ftp://",
    r"[^\x00-\x7f]",
    r"\.\./\.\./",
]

# Share in a hundred of each form of a rule.
FORMS = [
    ("dot", 36), ("https", 20), ("ignorecase", 10), ("www", 6), ("sub", 5), ("many", 3),
    ("named", 3), ("without", 1), ("behind", 1), ("backref", 0.5), ("twice", 0.5), ("number", 4),
    ("path", 10),
]  # fmt: skip
# Those that match a URL on the domain itself, whatever its path.
DOMAIN_FORMS = {"dot", "https", "ignorecase", "named", "without", "behind"}


def letter_weights() -> dict[str, list[float]]:
    """For each letter how likely each other one is to follow, out of the table in csrc/rarity.c."""
    text = (ROOT / "csrc" / "rarity.c").read_text()
    numbers = [
        int(n) for n in re.findall(r"\d+", text[text.index("rarity_cost") :].split("=", 1)[1])
    ]
    letters = "abcdefghijklmnopqrstuvwxyz"
    size = 37
    return {
        letter: [2 ** (-numbers[row * size + column] / 8) for column in range(26)]
        for row, letter in enumerate(letters)
    }


class Namer:
    """Makes domain names, each once."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.weights = letter_weights()
        self.seen: set[str] = set()

    def letters(self, length: int) -> str:
        name = self.rng.choice("abcdefghiklmnoprstvw")
        while len(name) < length:
            name += self.rng.choices("abcdefghijklmnopqrstuvwxyz", self.weights[name[-1]])[0]
        return name

    def label(self) -> str:
        kind = self.rng.random()
        if kind < 0.5:
            return self.letters(self.rng.randint(5, 14))
        words = self.rng.sample(WORDS, 2 if kind < 0.85 else 3)
        label = self.rng.choice(["", "", "-"]).join(words)
        return label + (str(self.rng.randint(1, 999)) if self.rng.random() < 0.2 else "")

    def domain(self) -> str:
        while True:
            name = f"{self.label()}.{self.rng.choices(TLDS, TLD_WEIGHTS)[0]}"
            if name not in self.seen:
                self.seen.add(name)
                return name


def rule(form: str, domain: str, rng: random.Random) -> str:
    """One rule about a domain, or about a path."""
    text = re.escape(domain).replace(r"\-", "-")
    label = text.split(r"\.")[0]
    word = rng.choice(AD_WORDS)
    path = rng.choice([
        f"/{word}/{label}[^\\w.%-]", f"[^\\w.%-]{word}-{label}\\.js", f"/{word}_{label}\\.gif\\?",
        f"^https?://([^/]*\\.)?{text}[^\\w.%-].*/{word}/", f"&{word}={label}&",
    ])  # fmt: skip
    return {
        "dot": f"^.*{text}.*$",
        "https": f"^https?://([^/]*\\.)?{text}(/|$)",
        "ignorecase": f"(?i){text}",
        "www": f"^https?://(?:www\\.)?{text}/.*$",
        "sub": f".*\\.{text}/.*",
        "many": f"{label}\\.(com|net|org|info)",
        "named": f"^https?://(?P<sub>[^/]*\\.)?{text}/(?P<path>.*)$",
        "without": f"^(?!.*/allowed/).*{text}",
        "behind": f"(?<!not-){text}",
        "backref": f"^https?://([a-z0-9]+)\\.{text}/\\1/",
        "twice": f"(?P<x>\\w+)=.*{text}.*(?P=x)",
        "number": f"/(?:ads?|banners?)/[0-9]+/{label}",
        "path": path,
    }[form]


@dataclass
class RuleSet:
    """Patterns in list order, and domains of which some rule blocks every URL."""

    patterns: list[str]
    blocked: list[str]


def rule_set(kind: str, size: int) -> RuleSet:
    """``dot`` or ``mix``; the same for the same arguments."""
    rng = random.Random(f"{kind} {size}")
    namer = Namer(rng)
    weak = WEAK if kind == "mix" and size >= 1000 else []
    patterns, blocked = list(weak), []
    forms, weights = zip(*FORMS, strict=True)
    while len(patterns) < size:
        domain = namer.domain()
        form = "dot" if kind == "dot" else rng.choices(forms, weights)[0]
        patterns.append(rule(form, domain, rng))
        if form in DOMAIN_FORMS:
            blocked.append(domain)
    rng.shuffle(patterns)
    return RuleSet(patterns, blocked)


def weak_rules(count: int) -> list[str]:
    """Rules without a text to look them up by, all different; none matches the URLs made here."""
    forms = [
        "/[a-f0-9]{{{}}}\\.[a-z]{{9}}$", "[?&][a-z]=[0-9]{{{}}}$", "/[A-Z]{{9}}[0-9]{{{}}}/", "^https?://[^/]{{{}}}/",
    ]  # fmt: skip
    return [forms[i % len(forms)].format(120 + i) for i in range(count)]


def path(rng: random.Random) -> str:
    """From nothing at all to what trackers make; the median URL has some 85 bytes."""
    text = "/" + "/".join(rng.choices(PATH_WORDS, k=rng.choice([0, 1, 1, 2, 3, 4])))
    if rng.random() < 0.7:
        text += (
            "/"
            + "-".join(rng.choices(WORDS, k=rng.randint(1, 6)))
            + rng.choice(["", ".html", ".js"])
        )
    if rng.random() < 0.45:
        pairs = []
        for _ in range(rng.choice([1, 1, 2, 3, 8, 16])):
            value = "".join(
                rng.choices("abcdef0123456789ABCXYZ_-%", k=rng.choice([1, 4, 8, 20, 60]))
            )
            pairs.append(f"{rng.choice(PATH_WORDS)}={value}")
        text += "?" + "&".join(pairs)
    return text


def host(rng: random.Random, domain: str) -> str:
    return rng.choice(["", "www.", "www.", "cdn.", "a1.b2.", "static."]) + domain


def misses(count: int) -> list[str]:
    """URLs on domains that no rule set has; a few may match a rule by their path."""
    rng = random.Random("misses")
    namer = Namer(rng)
    return [f"https://{host(rng, 'q' + namer.domain())}{path(rng)}" for _ in range(count)]


def hits(rules: RuleSet, count: int) -> list[str]:
    """URLs on domains of the set."""
    rng = random.Random("hits")
    return [f"https://{host(rng, rng.choice(rules.blocked))}{path(rng)}" for _ in range(count)]


def write_lines(to: Path, lines: list[str]) -> None:
    to.write_text("".join(line + "\n" for line in lines))
