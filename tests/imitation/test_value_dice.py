import contract

CONTRACT = contract.Contract()
