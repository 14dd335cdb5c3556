"""What a FLOP takes on a device: time, energy, money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from superbatch.selection.cost.errors import check

SECONDS_PER_HOUR = 3600
WATTS_PER_KILOWATT = 1000


@dataclass(frozen=True)
class Device:
    """A kind of machine: dense peak FLOP/s by number type, the first being the usual one; power; a price to rent it."""

    peak_flops_per_s: Mapping[str, float]
    watts: float
    price_per_hour: float


@dataclass(frozen=True)
class Spend:
    """What some FLOPs take. `device_hours` sums over devices, `wall_hours` is by the clock."""

    flops: float
    device_hours: float
    wall_hours: float
    kwh: float
    money: float


@dataclass(frozen=True)
class Rates:
    """How FLOPs turn into hours, kWh and money; refuses bad values when made."""

    device: str
    dtype: str
    peak_flops_per_s: float
    """Dense peak of one device for `dtype`."""
    watts: float
    """Power of one device under load."""
    price_per_hour: float
    """Of one device."""
    price_per_kwh: float = 0.0
    """On top of the price per hour, for machines of one's own."""
    utilisation: float = 0.35
    """Share of the peak that model FLOPs reach, in (0, 1]: MFU."""
    pue: float = 1.2
    """Power of the whole site for each watt of its devices, at least 1."""
    num_devices: int = 1

    def __post_init__(self) -> None:
        peak, hour, kwh = self.peak_flops_per_s, self.price_per_hour, self.price_per_kwh
        check(0 < peak < inf, "the peak of a device must be above 0 FLOP/s", peak, "An A100 has 312e12 in bf16.")
        check(0 < self.watts < inf, "watts must be above 0", self.watts, "An A100 takes 400.")
        check(0 <= hour < inf, "the price of a device-hour must be at least 0", hour, "Use 0 to leave money out.")
        check(0 <= kwh < inf, "the price of a kWh must be at least 0", kwh, "Use 0 where the rent includes power.")
        rule = "utilisation must be in (0, 1]"
        check(0 < self.utilisation <= 1, rule, self.utilisation, "0.35 is common; measure your own.")
        check(1 <= self.pue < inf, "PUE must be at least 1", self.pue, "A large site has about 1.2.")
        check(self.num_devices >= 1, "devices must be at least 1", self.num_devices, "Use 1 for a single one.")

    def spend(self, flops: float) -> Spend:
        """Return what `flops` take: hours = FLOPs / (peak * utilisation), kWh = hours * watts * PUE / 1000."""
        device_hours = flops / (self.peak_flops_per_s * self.utilisation) / SECONDS_PER_HOUR
        kwh = device_hours * self.watts * self.pue / WATTS_PER_KILOWATT
        return Spend(
            flops=flops,
            device_hours=device_hours,
            wall_hours=device_hours / self.num_devices,
            kwh=kwh,
            money=device_hours * self.price_per_hour + kwh * self.price_per_kwh,
        )
