"""The two programs that a cluster stack starts, and the supervised run of a stock fence agent.

The name is also that of ClusterLabs' library: this package lives only in pairguard's private environment.
"""
