"""SHA-256 of all objects of a film: `python object_digests.py` prints them."""

import hashlib

from clinical_films import VARIANTS, phantom_pair

from kneegrade.clinical import OBJECT_FORMATS, film_objects


def digests() -> list[str]:
    pair, (variant,) = phantom_pair(), (variant for variant in VARIANTS if variant.name == "japanese")
    content = variant.file(pair)
    objects, _ = film_objects(variant.graded(pair, content), content, variant.job, OBJECT_FORMATS)
    return [hashlib.sha256(one).hexdigest() for one in objects.values()]


if __name__ == "__main__":
    print(*digests())
