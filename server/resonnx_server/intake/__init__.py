"""Between a parsed request and the engine: how much may be in flight, and pictures turned into pixels."""
