"""The HTTP side of onsale: reads a request, asks the engine, writes the answer."""
