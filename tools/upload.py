"""``tools upload``: a run that was fetched goes where it is kept."""

from __future__ import annotations

from collections.abc import Sequence

from tools import console, destinations, runs
from tools.errors import UserError
from tools.kept import verified_files
from tools.remote import Origin


def upload_run(
    reference: str | None, to: Sequence[str], overwrite: bool, check: bool, as_json: bool
) -> None:
    """Bring the verified files of a run to every destination, or only see whether that would work.

    Raises:
        UserError: the run was not fetched as a whole, or another file has one of the names.
        VerificationError: bytes changed, here or on the way.
    """
    if not to:
        raise UserError(
            "No destination was named.",
            "Use --to gs://bucket/prefix, --to drive:FOLDER_ID or --to FOLDER; it may be repeated.",
        )
    if check:
        found = {address: destinations.check(address, overwrite) for address in to}
        if as_json:
            console.print_json([{"destination": a, "found": words} for a, words in found.items()])
        else:
            for words in found.values():
                console.stdout.print(words, markup=False)
        return
    run = runs.find(reference)
    origin = Origin(run.kernel, run.version)
    files = verified_files(run)
    goals = destinations.ready(to, origin, overwrite)
    deliveries = destinations.upload(files, origin, goals, overwrite)
    if as_json:
        told = {"kernel": run.kernel, "version": run.version}
        console.print_json(told | {"uploads": [delivery._asdict() for delivery in deliveries]})
    else:
        destinations.show(deliveries, str(run))
