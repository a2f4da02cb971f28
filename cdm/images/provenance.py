"""What a picture says about how it was made: XMP (ISO 16684-1) with IPTC's digital source type.

The source type is compositeWithTrainedAlgorithmicMedia, a picture with parts that a trained model made. A viewer that
knows IPTC shows it, as well as the system's name and version (IPTC Photo Metadata 2025.1); the rest is `cdm:made`, a
line of JSON.
"""

import json
import re
from xml.sax.saxutils import escape

import cdm

SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
PACKET = ('<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">'
          '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n{}</rdf:RDF></x:xmpmeta>\n'
          '<?xpacket end="w"?>')
OURS = ('<rdf:Description xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" rdf:about=""'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:cdm="urn:x-cdm:">'
        "<Iptc4xmpExt:DigitalSourceType>{}</Iptc4xmpExt:DigitalSourceType>"
        "<Iptc4xmpExt:AISystemUsed>cdm</Iptc4xmpExt:AISystemUsed>"
        "<Iptc4xmpExt:AISystemVersionUsed>{}</Iptc4xmpExt:AISystemVersionUsed>"
        "<cdm:made>{}</cdm:made></rdf:Description>\n")
# What a picture said of its source before, as an element or an attribute: it is no longer true; nor is what we said.
OLD = re.compile(r'<Iptc4xmpExt:(DigitalSourceType|AISystem\w*)\b[^>]*?(/>|>.*?</Iptc4xmpExt:\1>)'
                 r'|<cdm:made>.*?</cdm:made>'
                 r'|\sIptc4xmpExt:(DigitalSourceType|AISystem\w*)\s*=\s*("[^"]*"|\'[^\']*\')', re.DOTALL)
ORIENTATION = re.compile(r'(tiff:Orientation(?:\s*=\s*["\']|>))[1-8]')


def upright(xmp):
    """An XMP packet (bytes) that says of its picture that it stands upright, as far as it says how it stands."""
    return ORIENTATION.sub(r"\g<1>1", xmp.decode("utf-8", "replace")).encode()


def provenance(made, xmp=None):
    """An XMP packet (bytes) that says that a model made part of the picture, and how: `made`, a dict. What the packet
    `xmp` said otherwise stays; one that is no XMP is left out."""
    ours = OURS.format(SOURCE, cdm.__version__, escape(json.dumps(made, sort_keys=True)))
    before, end, after = OLD.sub("", (xmp or b"").decode("utf-8", "replace")).rpartition("</rdf:RDF>")
    return (before + ours + end + after if end else PACKET.format(ours)).encode()
