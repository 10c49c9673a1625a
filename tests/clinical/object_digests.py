"""SHA-256 of all objects of two films: `python object_digests.py` prints them."""

import hashlib

from clinical_films import VARIANTS, phantom_pair

from kneegrade.clinical import OBJECT_FORMATS, film_objects

NAMES = ("plain", "japanese")


def digests() -> list[str]:
    found, pair = [], phantom_pair()
    for variant in VARIANTS:
        if variant.name in NAMES:
            content = variant.file(pair)
            objects, _ = film_objects(variant.graded(pair, content), content, variant.job, OBJECT_FORMATS)
            found += [hashlib.sha256(one).hexdigest() for one in objects.values()]
    return found


if __name__ == "__main__":
    print(*digests())
