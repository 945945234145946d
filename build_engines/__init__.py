"""The build line: from labelled recordings to a bundle the device can trust. Never imported by the device."""
