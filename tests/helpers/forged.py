"""Checkpoints that somebody has changed."""

import hashlib
import json


def seal(content):
    """A manifest with a true seal, by the rule as it is documented."""
    body = json.dumps(content, indent=1)[:-2]
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{body},\n "sha256_of_the_above": "{digest}"\n}}\n'


def forge_path(path, **changes):
    """Writes a manifest anew, with other contents and a true seal."""
    content = json.loads(path.read_text())
    del content["sha256_of_the_above"]
    path.write_text(seal(content | changes))
