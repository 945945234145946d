"""Bundles for many devices, over TUF (https://theupdateframework.github.io/specification/latest/).

A repository is a folder on a web server: `metadata/`, signed, and `targets/`, the files. Who serves it need not be
trusted. A bundle is its manifest as the target `bundles/DIGEST`, whose `custom` says which devices it is for and names
its other files, and each of those as the target `files/SHA256`. `offers` chooses, `repository` fetches, `fetcher` is
the network. The build publishes.
"""
