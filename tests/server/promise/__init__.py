"""What the server promises of every request, as a state machine: an engine, its callers, and all that may go wrong.

Lanes begin and end jobs when the machine says so, under a clock that stands still in between; the watchdog is the
server's. The promises are checked after every step:

    I1  every accepted request ends exactly once
    I2  no job begins for a request whose deadline has passed, so an answer is late by one job at most
    I3  an answer is that to its own request
    I4  requests of one caller and priority are served in the order of their arrival
    I5  a batch has equal shapes, a size of the latency table, and at most as many rows
    I6  no lane idles while a request waits that may run
    I7  a request that is cancelled changes no other
    I8  of a batch that fails only the request fails that does so alone; of one that hangs all do, and no other
    I9  after the end nothing is pending
    I10 the queue holds at most its limit, and half as much again with several callers
    I11 accepted requests are those answered, failed, cancelled and late; what they held is free again
"""
