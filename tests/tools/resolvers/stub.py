# dnspython's stub resolver: names and search list from /etc/resolv.conf, TCP where an answer was cut.
import sys

import dns.resolver

RESOLVER = dns.resolver.Resolver()


def records(name, kind):
    return RESOLVER.resolve(name, kind, search=True)


def host(name):
    """Addresses of both families; a name without any is NODATA, one that is not there NXDOMAIN."""
    found = []
    for kind in ("A", "AAAA"):
        try:
            found += [one.address for one in records(name, kind)]
        except dns.resolver.NoAnswer:
            pass
    return found or ["NODATA"]


def srv(name):
    return [f"{one.port}/{one.target.to_text(omit_final_dot=True)}" for one in records(name, "SRV")]


def txt(name):
    return ["".join(part.decode() for part in one.strings) for one in records(name, "TXT")]


ASKED = {
    "HOST": host,
    "A": lambda name: [one.address for one in records(name, "A")],
    "AAAA": lambda name: [one.address for one in records(name, "AAAA")],
    "SRV": srv,
    "TXT": txt,
}

for question in sys.argv[1:]:
    kind, _, name = question.partition(":")
    try:
        out = ASKED[kind](name)
    except dns.resolver.NXDOMAIN:
        out = ["NXDOMAIN"]
    except dns.resolver.NoAnswer:
        out = ["NODATA"]
    print(" ".join([question, *sorted(out)]))
