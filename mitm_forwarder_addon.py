# mitmdump -s mitm_forwarder_addon.py
from mitm_forwarder import addons as addons
