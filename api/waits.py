"""How long the server waits where it could also look again. Wired in, not a setting: no user has to choose."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Waits:
    """Seconds."""

    tick_s: float = 0.5
    """Each task of the conductor runs at least this often."""
    apart_s: float = 0.02
    """Its rounds begin at least so far apart, however often trials end."""
    sampler_s: float = 60.0
    """A sampler process that has not answered after so long is killed."""
    pause: float = 20.0
    """While a study runs, a figure that was dear is drawn again only after so many times its cost (`api/kept.py`)."""
    refill_s: float = 0.3
    """A worker that just freed a slot waits this long for the trial that takes its place to be proposed."""
    presence_s: float = 5.0
    """Which workers are there is stored this often, and at least three times per lease."""
    recheck_s: float = 60.0
    """Whether the token that opened an event stream is valid still is looked up this often."""
    webhooks_s: float = 1.0
    """Ends of studies that an address is to be told of are looked for this often."""
