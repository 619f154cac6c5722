// SPDX-License-Identifier: MIT
// Of the target that owns the precompiled header.
