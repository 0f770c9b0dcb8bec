"""The load generator behind `resonnx bench`: what a served model gives at which load.

    traffic.py    ready-made requests for a model, as bytes
    transport.py  sends them, one call at a time or over streams
    load.py       decides when: closed loop (callers that wait) or open loop (a schedule that does not)
    summary.py    counts answers and gives percentiles
    search.py     looks for the highest rate that keeps a bound

Everything runs in one event loop. Requests are serialised once, before the clock starts, and answers of single calls
are not parsed, so that the generator costs the machine that it shares with a server as little as it can.
"""
