"""Files on a server: addresses, HTTP, the Hub, and the cache of what was fetched."""
