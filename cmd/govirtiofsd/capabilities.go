package main

// capabilities is what --print-capabilities says: the vhost-user schema's type, and
// the features that management tools ask about (libvirt, Incus).
const capabilities = `{
  "type": "fs",
  "features": [
    "posix-acl-negotiation-mode",
    "security-label-negotiation-mode",
    "separate-options"
  ]
}`
