"""Certificates and TLS.

`certificates` makes them (it alone needs the package `cryptography`), `serving` is the receiver's side of TLS,
`trust` the client's, `peers` tells which worker a certificate names. Asking for a new certificate in time is in
`worker.certificate`, because it needs the client.
"""
