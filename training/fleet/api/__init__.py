"""The HTTP edge: routes, decoding, parked claims, uploads and answers, as one ASGI application.

`app.App` is the application, `routes.ROUTES` the table that also makes the OpenAPI document. The edge holds no state of
its own beyond parked calls; every change goes to the queue through the one writer thread.
"""
