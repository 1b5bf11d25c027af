// Command cosign is Sigstore's cosign with one of its key management services, Azure Key Vault.
package main

import (
	"log"

	"github.com/sigstore/cosign/v3/cmd/cosign/cli"

	_ "github.com/sigstore/sigstore/pkg/signature/kms/azure"
)

func main() {
	if err := cli.New().Execute(); err != nil {
		log.Fatalf("error during command execution: %v", err)
	}
}
