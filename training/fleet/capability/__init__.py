"""Detection: what this host can do.

`detect` puts the facts together, `cards` asks for graphics cards, `libraries` for torch and the trainer's own,
`checkout` says where the code lies. The values they make are in `training.fleet.model.capability`, so that a part that
only needs the type starts no process and loads none of this.
"""
