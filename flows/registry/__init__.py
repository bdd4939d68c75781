"""The registry: who is champion, by whose decision, from which bytes.

versions    Registry: versions, registered once, resolved, opened verified    seal       manifest.json of a run's files
state       the signed account of who is champion                            aliases    the only writer of aliases
moves       intent, aliases, done; what a kill left is ended                 lock       one mover at a time
promotion   promote, rollback                                                judging    what the gates are asked
audit       audit.jsonl                                                      anchor     how far it was written
signoffs    people's words                                                   rehearsal  golden cases before a move
faults      what is wrong                                                    mend       putting it back
"""

from flows.registry.state import ALIASES, CHALLENGER, CHAMPION, PREVIOUS
from flows.registry.versions import Registry

__all__ = ["ALIASES", "CHALLENGER", "CHAMPION", "PREVIOUS", "Registry"]
