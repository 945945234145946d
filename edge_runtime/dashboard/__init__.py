"""A page for people, served by the process: the newest picture, what is decided and why, how old the inputs are.

`feed` is what it is told: the run flow leaves references there and goes on. `server` is the page's own thread, which
makes messages and pictures of them while somebody looks, and only then. `page/` is what the browser gets: no build
step, and nothing from another host.
"""
