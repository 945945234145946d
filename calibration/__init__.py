"""Between recordings and quantisation: which samples stand for the field. Imports the device, never the build."""
