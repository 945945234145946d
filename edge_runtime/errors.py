"""The exception tree.

EdgeError
├── UserError            the user's mistake: one line on stderr, exit 2, no trace
│   ├── ConfigError      a configuration file or command line value
│   │   └── HeldError    an endpoint that somebody else listens at: it passes, perhaps
│   ├── BundleError      a bundle that must not, or cannot, be run
│   └── CudaUnavailable  no CUDA here (edge_runtime.cuda)
├── GateRefused          a build gate said no: exit 3
└── EngineError          an engine failed while running; the loop answers with the safe decision
    ├── EnginesLost      they cannot be had again in this process: exit 4
    └── CudaError        a CUDA call failed (edge_runtime.cuda)

Everything else that escapes is a bug: exit 1, with its trace.
"""


class EdgeError(Exception):
    """Root of all errors raised on purpose by this project."""


class UserError(EdgeError):
    """Something the user can mend. The message says what, which value, and what to do."""


class ConfigError(UserError):
    """A configuration value is unknown, out of range or contradicts another."""


class HeldError(ConfigError):
    """An endpoint is held by another process. Nothing is wrong with the file: trying again may help."""


class BundleError(UserError):
    """A bundle is missing, incomplete, tampered with, unsigned or not for this runtime."""


class GateRefused(EdgeError):
    """A build stage's limits were not met; the message holds the figures."""


class EngineError(EdgeError):
    """An engine could not run, or gave values that are no answer (shape, dtype, not finite). Not at all: exit 4."""

    @property
    def device_lost(self) -> bool:
        """Whether nothing on this device can work again in this process."""
        return False


class EnginesLost(EngineError):
    """Engines failed and cannot be opened again by this process; by another, perhaps."""
