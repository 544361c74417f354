/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Stands in for a kernel's configuration and headers, so that bcc needs none.
 *
 * bcc includes this first of all, and then what else lies here, from its own helpers.h. That is enough
 * for programs that touch no struct of the kernel.
 */
#define CONFIG_BPF_SYSCALL 1
#define CONFIG_64BIT 1

#include <linux/types.h>
