"""The quick form of `make chaos`: a running service and honest senders beside it meet most of its faults within
seconds, without systemd; judged on all that holds however slow the machine is.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from tests.chaos.drive import settle, suffer
from tests.chaos.faults import FAULTS, Chaos
from tests.chaos.judge import judge
from tests.chaos.observer import Observer
from tests.chaos.site import process_site
from tests.conftest import wait_for
from tests.hostile.drive import max_ages_ms

BURSTS = (
    ("camera away", "sensors insane", "clock stepped", "subscriber stalled", "torn bundle", "keys rotated", "flooded"),
    ("camera frozen", "bad bundle"),
    ("process stopped", "camera lying", "good bundle"),
    ("killed", "install killed"),
    ("restarted", "sensors away"),
)


def test_whatever_is_done_to_it_its_accounts_add_up_and_nothing_old_or_wrong_decides(tmp_path: Path) -> None:
    with process_site(tmp_path) as site:
        observer = Observer(site, tmp_path)
        try:
            chaos = Chaos(site, observer, Random(1), hurry=0.3, trial_s=0.5)
            site.start()
            wait_for(lambda: observer.healthy_ns(0) is not None and observer.good(), "the first bundle's proof")
            faults = [[FAULTS[name] for name in names if FAULTS[name].needs(site)] for names in BURSTS]
            bursts = [suffer(chaos, together) for together in faults]
            settle(chaos)
        finally:
            observer.close()
        verdict = judge(observer.seen, bursts, max_ages_ms(), site.log(), limit_s=60.0)
    assert verdict.broken == [], site.log()
    assert verdict.lives == 3
    assert verdict.by_model > 0
