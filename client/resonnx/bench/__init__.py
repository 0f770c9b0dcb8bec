"""The load generator behind `resonnx bench`: what a served model gives at which load.

    traffic.py    ready-made requests for a model, as bytes
    transport.py  sends them, one call at a time or over streams
    load.py       decides when: closed loop (callers that wait) or open loop (a schedule that does not)
    summary.py    counts answers and gives percentiles
    subject.py    asks what is measured: the server, and how it runs the model
    search.py     looks for the highest rate that keeps a bound
    progress.py   a line that lives while a run goes on
    report.py     a table, JSON, a plot

Everything runs in one event loop. Requests are serialised once, before the clock starts, and answers of single calls
are not parsed, so that the generator costs the machine that it shares with a server as little as it can.
"""
