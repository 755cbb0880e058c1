"""Recovery phrase, key derivation and the sealed key file.

Everything a volume can decrypt or sign follows from 32 bytes of entropy. Pure: bytes in, bytes out.
The formats stand in docs/formats/keys.md.
"""

from storjfs.keys.derivation import AES_256_GCM, CHACHA20_POLY1305, GENERATION, VolumeKeys
from storjfs.keys.kit import PHRASE_IS_NOT_ENOUGH, recovery_kit
from storjfs.keys.phrase import ENTROPY_BYTES, PhraseError, entropy_to_phrase, new_entropy, phrase_to_entropy
from storjfs.keys.recovery import KnownFarmer, RecoveryRecordUnusable, open_farmers, seal_farmers
from storjfs.keys.sealing import (
    INTERACTIVE,
    MODERATE,
    Hardness,
    KeyFileDamaged,
    PassphraseNeeded,
    WrongPassphrase,
    needs_passphrase,
    open_sealed,
    plain_entropy,
    seal_entropy,
)

__all__ = [
    "AES_256_GCM",
    "CHACHA20_POLY1305",
    "ENTROPY_BYTES",
    "GENERATION",
    "INTERACTIVE",
    "MODERATE",
    "PHRASE_IS_NOT_ENOUGH",
    "Hardness",
    "KeyFileDamaged",
    "KnownFarmer",
    "PassphraseNeeded",
    "PhraseError",
    "RecoveryRecordUnusable",
    "VolumeKeys",
    "WrongPassphrase",
    "entropy_to_phrase",
    "needs_passphrase",
    "new_entropy",
    "open_farmers",
    "open_sealed",
    "phrase_to_entropy",
    "plain_entropy",
    "recovery_kit",
    "seal_entropy",
    "seal_farmers",
]
