"""The load generator of `resonnx bench`, which measures throughput and latency of a served model.

    traffic.py    serialised requests for a model
    transport.py  sends them as unary calls or over streams
    load.py       decides when to send: closed loop (callers wait for answers) or open loop (a schedule)
    summary.py    counts answers and computes percentiles
    subject.py    asks the server for its version and the model's
    search.py     searches for the highest rate within a latency bound
    progress.py   shows the progress of a run
    report.py     writes a table, JSON and a plot

Everything runs in one event loop. To spare the processor, which a server on the same machine shares, requests are
serialised once before the measurement, and responses of unary calls are not parsed.
"""
