/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* bcc counts a ring buffer in pages. The loader names the machine's own page size. */
#ifndef PAGE_SIZE
#define PAGE_SIZE 4096
#endif
