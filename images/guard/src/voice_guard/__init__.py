"""The guard: beside a canary there is a small pod that gives stable all the traffic when nobody watches it.

A promoter renews a Lease every few seconds while it works. When it dies with a share of the users on a
canary, nobody would look at what these get. So the guard looks, every second, at the route, the Lease and the
canary's endpoints, and can do one thing: write the route so that stable gets everything. It says so in a
ConfigMap.

    decide.py     what a look means; pure
    kubernetes.py the five questions that its role allows
    __main__.py   the loop
"""
