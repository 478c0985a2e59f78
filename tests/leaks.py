"""Texts of exceptions with secrets, of each kind; what shows or stores them must hide these."""

from dataclasses import dataclass, field

PEM = """\
-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj
MzEfYyjiWA4R4/M2bS1GB4t7NXp98C3SC6dVMvDuictGeurT8jNbvJZHtCSuYEvu
-----END PRIVATE KEY-----
"""
QUOTES = """a "b'c" \\ x4711y\nnö"""
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZ=="
CONNECTION = f"DefaultEndpointsProtocol=https;AccountName=me;AccountKey={ACCOUNT_KEY};End=x"


@dataclass(frozen=True)
class Leak:
    """What an exception says, in one line, and what of that nobody may see."""

    name: str
    text: str
    hidden: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


LEAKS = [
    Leak("value", "zebra-Quark-42 is wrong", ("Quark-42",), {"DB_PASS": "zebra-Quark-42"}),
    Leak("token", "no 'pat-4711-0815'", ("4711-0815",), {"GITHUB_PAT": "pat-4711-0815\n"}),
    Leak(
        "quotes",
        repr(OSError(QUOTES)),
        ("x4711y",),
        {"MY_SECRET": QUOTES},
    ),
    Leak("key in repr", repr(OSError(PEM)), ("MIIEvQ", "MzEfYy"), {"DEPLOY_KEY": PEM}),
    Leak("line of a key", f"at {PEM[28:92]}", ("MIIEvQ",), {"DEPLOY_KEY": PEM}),
    Leak(
        "connection string",
        f"bad {CONNECTION}",
        ("Eby8vdM02",),
        {"AZURE_STORAGE_CONNECTION_STRING": CONNECTION},
    ),
    Leak(
        "key of a connection string",
        f"bad padding: {ACCOUNT_KEY}",
        ("Eby8vdM02",),
        {"AZURE_STORAGE_CONNECTION_STRING": CONNECTION},
    ),
    Leak("unknown connection string", f"bad {CONNECTION}", ("Eby8vdM02",)),
    Leak("signature", "no https://me.blob/c?sv=2022&sig=ab%2Fc4711%3D", ("c4711%3D",)),
    Leak("bearer", "{'Authorization': 'Bearer abc.4711-x'} is refused", ("abc.4711",)),
    Leak("basic", "Authorization: Basic bWU6NDcxMQ== is refused", ("bWU6",)),
    Leak("keyword", "no host=db password=pw-4711 user=me", ("pw-4711",)),
    Leak("quoted keyword", "no host=db password='p w-4711' user=me", ("w-4711", "p w")),
    Leak("address", "no postgresql://me:pw-4711@db/x", ("pw-4711",)),
    Leak("address with spaces", "no postgresql://me:p w-4711@db/x", ("w-4711", "p w")),
    Leak("user of the web", "no https://pat4711@host/me.git", ("pat4711",)),
]
