// The resolver of the C library: getaddrinfo for addresses, res_search for all else.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MANY 256

static char *lines[MANY];
static int count;

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void host(const char *name, int family) {
    struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM}, *all, *one;
    int error = getaddrinfo(name, NULL, &hints, &all);
    if (error == EAI_NONAME) { printf(" NXDOMAIN"); return; }
#ifdef EAI_NODATA
    if (error == EAI_NODATA) { printf(" NODATA"); return; }
#endif
    if (error) { printf(" %s", gai_strerror(error)); return; }
    for (one = all; one && count < MANY; one = one->ai_next) {
        char text[INET6_ADDRSTRLEN];
        if (!getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST)) lines[count++] = strdup(text);
    }
    freeaddrinfo(all);
}

static void records(const char *name, int type) {
    static unsigned char reply[65536];
    int length = res_search(name, ns_c_in, type, reply, sizeof reply);
    ns_msg message;
    if (length < 0) { printf(h_errno == HOST_NOT_FOUND ? " NXDOMAIN" : h_errno == NO_DATA ? " NODATA" : " ERROR"); return; }
    if (ns_initparse(reply, length, &message)) { printf(" UNREADABLE"); return; }
    for (int i = 0; i < ns_msg_count(message, ns_s_an) && count < MANY; i++) {
        ns_rr record;
        char text[1200], target[NS_MAXDNAME];
        if (ns_parserr(&message, ns_s_an, i, &record) || ns_rr_type(record) != type) continue;
        const unsigned char *rdata = ns_rr_rdata(record);
        if (type == ns_t_srv) {
            if (dn_expand(reply, reply + length, rdata + 6, target, sizeof target) < 0) continue;
            snprintf(text, sizeof text, "%d/%s", ns_get16(rdata + 4), target);
        } else if (type == ns_t_ptr) {
            if (dn_expand(reply, reply + length, rdata, target, sizeof target) < 0) continue;
            snprintf(text, sizeof text, "%s", target);
        } else {
            snprintf(text, sizeof text, "%.*s", rdata[0], rdata + 1);
        }
        lines[count++] = strdup(text);
    }
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        char *name = strchr(argv[i], ':');
        if (!name) return 2;
        printf("%s", argv[i]);
        *name++ = 0;
        count = 0;
        if (!strcmp(argv[i], "HOST")) host(name, AF_UNSPEC);
        else if (!strcmp(argv[i], "A")) host(name, AF_INET);
        else if (!strcmp(argv[i], "AAAA")) host(name, AF_INET6);
        else if (!strcmp(argv[i], "SRV")) records(name, ns_t_srv);
        else if (!strcmp(argv[i], "TXT")) records(name, ns_t_txt);
        else if (!strcmp(argv[i], "PTR")) records(name, ns_t_ptr);
        else return 2;
        qsort(lines, count, sizeof *lines, by_text);
        for (int k = 0; k < count; k++) printf(" %s", lines[k]);
        printf("\n");
    }
    return 0;
}
