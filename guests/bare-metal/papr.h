/*
 * PAPR's numbers that the guest and its host need
 *
 * Scripts read this file, too: see hcalls.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef PAPR_H
#define PAPR_H

#define H_SUCCESS       0
#define H_HARDWARE      0xffffffffffffffff
#define H_FUNCTION      0xfffffffffffffffe

#define H_CEDE          0xe0
#define H_UNASSIGNED    0x12c   /* not implemented, so the cheapest call */
#define H_JOIN          0x298
#define H_RANDOM        0x300

/* Numbers that QEMU has chosen */
#define H_RTAS          0xf000
#define H_CAS           0xf002
#define TB_HZ           512000000   /* the frequency of the time base */

#define RTAS_START_CPU  0x2006
#define RTAS_STOP_SELF  0x2007

#endif
