"""The messages between workers, people and the receiver.

`worker` holds those about jobs, `identities` those about who a worker is, `people` those that an operator sees and
sends, `limits` their bounds. `read` turns JSON into a message for the worker and the operator's command; the receiver
reads more strictly, with `api.json`, and makes the OpenAPI document of the same classes. Standard library only,
because the worker speaks them too. Fields are only ever added, and unknown ones are ignored, so an older worker and a
newer receiver can talk.
"""
