"""What a store holds, and so which listed inputs a run has to extract.

An input is recognised by its key or by its address. So a stored image is not new because its folder
moved, or because a second ``--input`` prefixes its key. The records of a shard count one by one: a
slice of a shard is new if no other slice of the same file stored its records.
Images are compared in blocks with the store's index, so that memory holds neither the listing nor
the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from classifier.inputs import ImageRef, ShardRef
from classifier.inputs.columns import unmarked
from classifier.inputs.records import (
    WHOLE,
    Ranges,
    file_etag,
    records_of,
    union,
    with_records,
    without,
)
from featurestore.commit import Marker
from featurestore.errors import UsageError
from featurestore.index.index import Held, Index
from featurestore.index.rows import IN_SHARD, QUARANTINED, ROW, UNREADABLE, versions
from featurestore.io.sorting import DigestSet, digests
from featurestore.store import FeatureStore
from pipelines.planning.chunks import Ref, Wanted
from pipelines.planning.storedshards import stored_shards

_BLOCK = 1 << 16
_KINDS = {ROW: "row", QUARANTINED: "quarantined", UNREADABLE: "unreadable"}


def digest(*parts: str | int) -> bytes:
    """Returns 16 bytes that stand for the parts."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:16]


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored under one key.

    Attributes:
      kind: ``row``, ``quarantined``, ``unreadable`` (quarantined because it could not be read) or
        ``shard``.
      version: digest of the file's size and etag.
      address: digest of the uri.
      run_id: the run that wrote it.
    """

    kind: str
    version: int
    address: int
    run_id: str


@dataclass(frozen=True)
class _Block:
    """Some listed inputs, with their digests.

    Attributes:
      refs: the inputs.
      keys: of the keys, uint64 (n, 2).
      addresses: of what tells the inputs apart, uint64 (n, 2).
      uris: of the addresses, uint64 (n,).
      versions: of sizes and etags, uint64 (n,).
    """

    refs: list[Ref]
    keys: np.ndarray
    addresses: np.ndarray
    uris: np.ndarray
    versions: np.ndarray

    @classmethod
    def of(cls, refs: list[Ref]) -> _Block:
        uris = digests(ref.uri for ref in refs)
        addresses = uris
        # The address of an image that cannot be read may be shortened; its etag distinguishes it.
        lost = [n for n, ref in enumerate(refs) if isinstance(ref, ImageRef) and ref.problem]
        if lost:
            addresses = uris.copy()
            addresses[lost] = digests(f"{refs[n].uri}\0{refs[n].etag}" for n in lost)
        etags = (file_etag(ref.etag) if "#" in ref.etag else ref.etag for ref in refs)
        found = versions((ref.size for ref in refs), etags)
        return cls(refs, digests(ref.key for ref in refs), addresses, uris[:, 0], found)


@dataclass
class Inventory:
    """The inputs that a store accounts for.

    Attributes:
      index: the images of the store.
      retry: whether quarantined images are extracted again.
      stored: digest of a shard's key -> what is stored of the shard.
      bad: digests of the keys of shards with quarantined images.
      by_columns: digest of a shard's key -> its version, whatever columns it was read by.
      records: digest of a shard's (uri, size, etag) -> its records that are stored.
      shards: digest of a shard's key or address -> the shard, with all records that were listed.
      moved: digest of a key -> its listed address and the digest of its stored one.
      moved_from: the commits of the images in `moved`, as places in `index.markers`.
    """

    index: Index = field(default_factory=Index.empty)
    retry: bool = False
    stored: dict[bytes, Stored] = field(default_factory=dict)
    bad: set[bytes] = field(default_factory=set)
    by_columns: dict[bytes, int] = field(default_factory=dict)
    records: dict[bytes, Ranges] = field(default_factory=dict)
    shards: dict[bytes, ShardRef] = field(default_factory=dict)
    moved: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    moved_from: set[int] = field(default_factory=set)
    _keys: DigestSet = field(default_factory=DigestSet, repr=False)
    _addresses: DigestSet = field(default_factory=DigestSet, repr=False)

    @classmethod
    def read(cls, store: FeatureStore, retry: bool = False) -> Inventory:
        """Reads what a store holds, without what was superseded."""
        markers = store.markers()
        result = cls(Index.read(store.storage, markers.values()), retry)
        # A retry reads a shard with a quarantined image again.
        for marker in result.index.with_quarantine_in_shards():
            result.bad.add(digest(marker.source["key"]))
        for key, shard in stored_shards(markers.values()).items():
            uri, size, etag = shard.file
            version, columns = versions((size, size), (etag, unmarked(etag))).tolist()
            address = int(digests([uri])[0, 0])
            result.stored[digest(key)] = Stored("shard", version, address, shard.run_id)
            result.by_columns[digest(key)] = columns
            # If the listing names no columns, the shard stays as it was read.
            for name in {etag, unmarked(etag)}:
                place = digest(uri, size, name)
                result.records[place] = union(result.records.get(place, ()), shard.records)
        return result

    def sift(self, refs: Iterable[Ref]) -> Iterator[tuple[bool, Wanted | None]]:
        """Decides what is to be done with each listed input.

        Yields:
          (whether it was listed for the first time, what to extract). None stands for nothing: the
          input is stored or was listed before. Of a shard, only the records that are not stored are
          extracted.

        Raises:
          UsageError: when another image or shard was listed under the key of an input.
        """
        refs = iter(refs)
        while some := list(islice(refs, _BLOCK)):
            block = _Block.of(some)
            seen = self._see(block)
            decided = self._decide(block, seen)
            yield from (
                (ref is not None, wanted) for ref, wanted in zip(seen, decided, strict=True)
            )

    def _see(self, block: _Block) -> list[Ref | None]:
        """Returns the inputs, of a shard its new records, and None for what was listed before."""
        known_keys, known = self._keys.holds(block.keys), self._addresses.holds(block.addresses)
        keys = [key.tobytes() for key in block.keys]
        addresses = [address.tobytes() for address in block.addresses]
        plain = not (known_keys.any() or known.any())
        plain = plain and len(set(keys)) == len(set(addresses)) == len(keys)
        seen: list[Ref | None] = list(block.refs)
        if not plain:
            self._drop_repeated(block, seen, (keys, known_keys), (addresses, known))
        for number, ref in enumerate(block.refs):
            if isinstance(ref, ShardRef):
                seen[number] = self._see_shard(ref)
        self._keys.add(block.keys[~known_keys])
        self._addresses.add(block.addresses[~known])
        return seen

    @staticmethod
    def _drop_repeated(
        block: _Block,
        seen: list[Ref | None],
        keys: tuple[list[bytes], np.ndarray],
        addresses: tuple[list[bytes], np.ndarray],
    ) -> None:
        here: set[bytes] = set()
        there: set[bytes] = set()
        for number, ref in enumerate(block.refs):
            key, address = keys[0][number], addresses[0][number]
            again = addresses[1][number] or address in there
            if (keys[1][number] or key in here) and not again:
                raise UsageError(
                    f"--input: {ref.uri!r} has the key {ref.key!r} of another image of this "
                    "command; keys are paths below an --input, so rename one of the two, or move "
                    "it into a folder of another name"
                )
            here.add(key)
            there.add(address)
            if again:
                seen[number] = None

    def _see_shard(self, ref: ShardRef) -> ShardRef | None:
        key, address = digest(ref.key), digest(ref.uri)
        before = self.shards.get(address)
        known, records = records_of(before.etag) if before else (), records_of(ref.etag)
        self.shards[key] = self.shards[address] = with_records(ref, union(known, records))
        fresh = without(records, known)
        return with_records(ref, fresh) if fresh else None

    def _decide(self, block: _Block, seen: list[Ref | None]) -> list[Wanted | None]:
        held = self.index.by_key(block.keys)
        same = held.found & (held.uri == block.uris) & (held.version == block.versions)
        done = same & (held.kind <= (ROW if self.retry else QUARANTINED))
        decided: list[Wanted | None] = [None] * len(seen)
        # A shard may have had the key since the image was stored.
        has_shards = bool(self.stored)
        rest = np.array(
            [
                number
                for number, ref in enumerate(seen)
                if ref is not None and (has_shards or isinstance(ref, ShardRef) or not done[number])
            ],
            np.int64,
        )
        if not len(rest):
            return decided
        uris, file_versions = block.uris[rest], block.versions[rest]
        placed = self.index.has_places(uris, file_versions).tolist()
        known = self.index.has_versions(file_versions).tolist()
        for place, number in enumerate(rest.tolist()):
            ref = seen[number]
            assert ref is not None
            facts = int(uris[place]), int(file_versions[place]), placed[place], known[place]
            decided[number] = self._choose(ref, self._held(ref, held, number), facts)
        return decided

    def _held(self, ref: Ref, held: Held, number: int) -> tuple[Stored | None, int]:
        """Returns what is stored under an input's key, and the commit of an image."""
        shard = self.stored.get(digest(ref.key)) if self.stored else None
        if not held.found[number]:
            return shard, -1
        commit = int(held.commit[number])
        run_id = self.index.markers[commit].run_id
        if shard and shard.run_id >= run_id:
            return shard, -1
        kind = _KINDS[int(held.kind[number])]
        return Stored(kind, int(held.version[number]), int(held.uri[number]), run_id), commit

    def _choose(
        self, ref: Ref, found: tuple[Stored | None, int], facts: tuple[int, int, bool, bool]
    ) -> Wanted | None:
        (held, commit), (uri, version, placed, known) = found, facts
        is_image = isinstance(ref, ImageRef)
        kind = "row" if held and held.kind in ("row", "shard") else "quarantined"
        if held:
            moved = held.address != uri
            if moved:
                self.moved[digest(ref.key)] = ref.uri, held.address
                self.moved_from.add(commit)
            if moved or version not in (held.version, self.by_columns.get(digest(ref.key))):
                # The content may be unchanged: the file was perhaps only touched or moved.
                return Wanted(ref, kind, held.run_id, known=is_image and kind == "row")
        again = held is not None and self._is_wanted_again(ref, held)
        missing = (() if placed else WHOLE) if is_image else self._missing(ref)
        if not missing:
            return Wanted(ref, "quarantined", held.run_id) if held and again else None
        if held is None:
            return Wanted(_part(ref, missing), known=is_image and known)
        return Wanted(ref if again else _part(ref, missing), kind, held.run_id)

    def _missing(self, shard: Ref) -> Ranges:
        """Returns the records of a shard that are not stored."""
        address = digest(shard.uri, shard.size, file_etag(shard.etag))
        return without(records_of(shard.etag), self.records.get(address, ()))

    def _is_wanted_again(self, ref: Ref, held: Stored) -> bool:
        """Whether the quarantined images under a key are to be read once more."""
        # An unreadable image may be readable now: permissions and networks change.
        is_bad = held.kind == "quarantined" or digest(ref.key) in self.bad
        return held.kind == "unreadable" or (self.retry and is_bad)

    def is_listed(self, keys: Collection[str], uris: Collection[str]) -> np.ndarray:
        """Returns bool (n,): which stored inputs the listing named, by key or by address."""
        return self._keys.holds(digests(keys)) | self._addresses.holds(digests(uris))

    def with_unlisted(self) -> list[Marker]:
        """Returns the commits that may hold images which the listing did not name."""
        numbers = self.index.commits_where(
            lambda keys, kinds: (kinds >= IN_SHARD) | ~self._keys.holds(keys)
        )
        return [self.index.markers[number] for number in numbers]


def _part(ref: Ref, records: Ranges) -> Ref:
    return ref if isinstance(ref, ImageRef) else with_records(ref, records)
