"""A simulated exchange: a process of its own that speaks Binance's spot dialect over HTTP and websocket."""
