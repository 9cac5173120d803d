"""What crosses between core and node: canonical JSON, versions, closed messages, artifacts.

Nothing here touches a network, a file or a tensor: bytes in, validated values out.
"""
